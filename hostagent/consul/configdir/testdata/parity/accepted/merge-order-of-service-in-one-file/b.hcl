service {
  name = "third"
  port = 3
  connect { sidecar_service {} }
}
