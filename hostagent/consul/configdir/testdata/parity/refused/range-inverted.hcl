ports {
  sidecar_min_port = 25001
  sidecar_max_port = 25000
}
