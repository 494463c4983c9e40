node_name  = "first"
datacenter = "dc-a"
ports { grpc = 8502 }
