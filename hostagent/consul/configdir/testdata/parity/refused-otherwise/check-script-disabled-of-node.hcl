# Without enable_script_checks or enable_local_script_checks, which another file may hold.
check {
  name     = "script"
  args     = ["/bin/true"]
  interval = "10s"
}
