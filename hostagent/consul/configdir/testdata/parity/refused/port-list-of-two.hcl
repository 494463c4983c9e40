service {
  name = "web"
  port = [8080, 8081]
}
