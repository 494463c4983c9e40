ports { sidecar_max_port = 0 }
