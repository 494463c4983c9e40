services {
  id   = "web-sidecar-proxy"
  name = "mine"
  port = 9999
}
services {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
