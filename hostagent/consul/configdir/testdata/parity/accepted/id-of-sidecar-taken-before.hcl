services {
  id   = "web-sidecar-proxy"
  name = "mine"
  port = 21050
}
services {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
