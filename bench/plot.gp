# Bars: how many times as long, and how many times as much CPU, as the bare
# libcurl multi program. Called by bulk.py with out, slow and fast set.

set terminal svg size 960,400 font "sans-serif,12" background "white"
set output out
set multiplot layout 1,2
set style data histogram
set style histogram clustered gap 1
set style fill solid noborder
set boxwidth 0.9
set logscale y
set yrange [0.5:1000]
set xrange [-0.6:4.6]
set format y "%g ×"
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set xtics rotate by -20 scale 0 offset -1,0
set lmargin 9
set rmargin 6
set key top left reverse Left samplen 1
colors = "#8fc1e3 #3c7cb0 #16425b"

set title "Wall time, in times the limit's: 1,000 calls, 50 ms delay"
plot for [i=2:4] slow using i:xtic(1) title columnheader(i) lc rgb word(colors, i-1), \
	1 notitle with lines dt 2 lc rgb "#444444"

set title "CPU, in times the limit's: 5,000 calls, no delay"
unset key
plot for [i=2:4] fast using i:xtic(1) title columnheader(i) lc rgb word(colors, i-1), \
	1 notitle with lines dt 2 lc rgb "#444444"
unset multiplot
