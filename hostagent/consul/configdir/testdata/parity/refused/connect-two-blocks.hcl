service {
  name = "web"
  port = 8080
  connect { native = true }
  connect { sidecar_service {} }
}
