ports {
  sidecar_min_port = "25000"
  sidecar_max_port = "25010"
}
