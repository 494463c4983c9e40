service {
  name = "web"
  port = 80.9
}
