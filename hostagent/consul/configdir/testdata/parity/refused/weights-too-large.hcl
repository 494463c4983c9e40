service {
  name = "web"
  port = 8080
  weights { passing = 65536 }
}
