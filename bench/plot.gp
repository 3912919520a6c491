# Bars: how many times as long, and how many times as much CPU, as the bare
# libcurl multi program. Called by bulk.py with out, slow and fast set.

set terminal svg size 960,420 font "sans-serif,11" background "white"
set output out
set multiplot layout 1,2
set style data histogram
set style histogram clustered gap 1
set style fill solid 0.9 noborder
set boxwidth 0.9
set logscale y
set yrange [0.5:*]
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set xtics rotate by -25 scale 0
set key top left
colors = "#7aa6c2 #2f6690 #16425b"

set title "wall time: 1,000 calls, 50 ms server delay, 32 at a time"
set ylabel "times the bare libcurl multi program"
plot for [i=2:4] slow using i:xtic(1) title columnheader(i) lc rgb word(colors, i-1)

set title "CPU: 5,000 calls, no server delay, 32 at a time"
unset key
plot for [i=2:4] fast using i:xtic(1) lc rgb word(colors, i-1)
unset multiplot
