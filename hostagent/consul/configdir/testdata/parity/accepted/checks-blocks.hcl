service {
  name = "web"
  port = 8080
  checks { ttl = "10s" }
  checks { ttl = "20s" }
}
