service {
  name = "b"
  port = 2
  connect { sidecar_service {} }
}
