service {
  name = "web"
  port = 08
}
