# Capital letters come first.
service {
  name = "capital"
  port = 3
  connect { sidecar_service {} }
}
