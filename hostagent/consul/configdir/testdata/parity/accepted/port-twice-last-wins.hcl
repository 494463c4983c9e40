service {
  name = "web"
  port = 8080
  port = 8081
}
