service {
  name = "${env.NAME}-web"
  port = 8080
  connect { sidecar_service {} }
}
