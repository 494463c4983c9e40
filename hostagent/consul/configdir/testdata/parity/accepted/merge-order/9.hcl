service {
  name = "nine"
  port = 9
  connect { sidecar_service {} }
}
