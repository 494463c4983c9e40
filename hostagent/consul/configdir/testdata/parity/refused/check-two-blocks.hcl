service {
  name = "web"
  port = 8080
  check { ttl = "10s" }
  check { ttl = "20s" }
}
