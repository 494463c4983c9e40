service {
  id   = "web"
  port = 8080
}
