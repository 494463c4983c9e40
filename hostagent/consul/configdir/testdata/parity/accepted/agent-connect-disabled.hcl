# It does not keep sidecars from being registered.
connect { enabled = false }
service {
  name = "web"
  port = 8080
  connect { sidecar_service {} }
}
