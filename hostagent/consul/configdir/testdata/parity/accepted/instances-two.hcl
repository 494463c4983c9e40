services {
  id   = "web-1"
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
services {
  id   = "web-2"
  name = "web"
  port = 8081
  connect { sidecar_service {} }
}
