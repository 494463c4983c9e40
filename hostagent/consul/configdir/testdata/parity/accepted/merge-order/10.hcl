service {
  name = "ten"
  port = 10
  connect { sidecar_service {} }
}
