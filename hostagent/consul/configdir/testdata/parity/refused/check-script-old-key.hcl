service {
  name = "web"
  port = 8080
  check {
    script   = "/bin/true"
    interval = "10s"
  }
}
