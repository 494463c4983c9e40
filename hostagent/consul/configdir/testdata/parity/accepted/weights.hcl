service {
  name = "web"
  port = 8080
  weights {
    passing = 10
    warning = 1
  }
}
