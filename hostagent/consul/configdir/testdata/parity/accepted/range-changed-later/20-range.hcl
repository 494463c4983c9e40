ports {
  sidecar_min_port = 26000
  sidecar_max_port = 26010
}
