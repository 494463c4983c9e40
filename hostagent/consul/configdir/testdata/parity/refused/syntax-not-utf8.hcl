service {
  name = "webÿ"
  port = 8080
}
