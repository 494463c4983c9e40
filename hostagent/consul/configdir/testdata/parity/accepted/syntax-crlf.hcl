service {
  name = "web"
  port = 8080
  # comment
  connect {
    sidecar_service {}
  }
}
