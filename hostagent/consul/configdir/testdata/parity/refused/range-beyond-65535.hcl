ports {
  sidecar_min_port = 65000
  sidecar_max_port = 65536
}
