service {
  name = "web"
  kind = "destination"
  port = 8080
}
