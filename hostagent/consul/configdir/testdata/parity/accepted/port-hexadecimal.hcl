service {
  name = "web"
  port = 0x1F90
  connect {
    sidecar_service { port = 0x5208 }
  }
}
