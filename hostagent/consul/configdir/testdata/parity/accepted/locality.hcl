service {
  name = "web"
  port = 8080
  locality {
    region = "eu-1"
    zone   = "a"
  }
}
