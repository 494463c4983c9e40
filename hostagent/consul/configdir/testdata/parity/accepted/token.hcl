service {
  name  = "web"
  port  = 8080
  token = "11111111-1111-1111-1111-111111111111"
  connect { sidecar_service {} }
}
