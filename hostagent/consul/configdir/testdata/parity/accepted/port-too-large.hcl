# Nobody checks a service's port.
service {
  name = "web"
  port = 99999
  connect { sidecar_service {} }
}
