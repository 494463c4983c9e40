enable_central_service_config = false
service {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
