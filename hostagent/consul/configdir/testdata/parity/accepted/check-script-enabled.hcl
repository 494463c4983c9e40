enable_script_checks = true
service {
  name = "web"
  port = 8080
  check {
    args     = ["/bin/true"]
    interval = "10s"
  }
}
