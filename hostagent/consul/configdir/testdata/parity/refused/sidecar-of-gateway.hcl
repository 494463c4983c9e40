service {
  name = "gw"
  kind = "mesh-gateway"
  port = 8443
  connect {
    sidecar_service {}
  }
}
