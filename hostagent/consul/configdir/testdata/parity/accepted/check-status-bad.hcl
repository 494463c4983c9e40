service {
  name = "web"
  port = 8080
  check {
    ttl    = "10s"
    status = "good"
  }
}
