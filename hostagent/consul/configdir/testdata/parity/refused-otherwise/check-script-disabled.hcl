# Without enable_script_checks or enable_local_script_checks, which another file may hold.
service {
  name = "web"
  port = 8080
  check {
    args     = ["/bin/true"]
    interval = "10s"
  }
}
