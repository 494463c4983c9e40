service {
  name = "web"
  kind = "application"
  port = 8080
}
