# The sidecar of the definition that lost stays, with its port.
services {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
services {
  id   = "web"
  name = "web-two"
  port = 8081
}
