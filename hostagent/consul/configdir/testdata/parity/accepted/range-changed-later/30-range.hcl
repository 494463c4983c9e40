ports { sidecar_min_port = 26005 }
