service "web" {
  name = "web"
  port = 8080
}
