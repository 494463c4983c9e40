service {
  name = "web"
  port = 8e3
}
