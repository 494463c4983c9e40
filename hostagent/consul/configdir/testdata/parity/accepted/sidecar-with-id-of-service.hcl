service {
  id      = "web-1"
  name    = "web"
  address = "10.0.0.9"
  port    = 8080
  connect {
    sidecar_service {}
  }
}
