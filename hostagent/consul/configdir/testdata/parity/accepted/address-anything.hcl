service {
  name    = "web"
  address = "not an address"
  port    = 8080
  connect { sidecar_service {} }
}
