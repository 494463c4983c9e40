service {
  name = "web_app.v2/ä"
  port = 8080
  connect { sidecar_service {} }
}
