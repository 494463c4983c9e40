service {
  name = "web"
  port = 010
}
