service {
  name = "batch"
  connect {
    sidecar_service {}
  }
}
