service {
  name = "web"
  port = 8080
  tagged_addresses { lan = "10.0.0.9" }
}
