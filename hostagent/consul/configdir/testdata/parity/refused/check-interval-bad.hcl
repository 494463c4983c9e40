service {
  name = "web"
  port = 8080
  check {
    http     = "http://127.0.0.1:8080"
    interval = "10 seconds"
  }
}
