service {
  name    = "web"
  address = "fd00::9"
  port    = 8080
  connect { sidecar_service {} }
}
