service {
  name = "web"
  port = 8081
  tags = ["b"]
}
