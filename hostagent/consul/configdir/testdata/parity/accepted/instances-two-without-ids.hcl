services {
  name = "web"
  port = 8080
}
services {
  name = "web"
  port = 8081
}
